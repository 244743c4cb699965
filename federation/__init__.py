"""The same training between hospitals: weights travel, cases do not."""

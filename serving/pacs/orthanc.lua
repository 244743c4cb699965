-- Orthanc asks Islet to segment every CT series that has become stable.
--
-- In Orthanc's configuration:
--   "LuaScripts": ["/etc/orthanc/islet.lua"],
--   "Islet": {
--     "Url": "http://127.0.0.1:3000",       -- of Islet
--     "TokenFile": "/etc/orthanc/islet.token", -- a bearer token with the role `segment`; optional
--     "Server": "main"                      -- what Islet calls this Orthanc in its configuration
--   }
--
-- Islet answers as soon as the job is on its disk, so a call takes milliseconds. It fetches the
-- series, and stores the results, over Orthanc's DICOMweb plugin. Only CT is asked for, and Islet
-- makes none, so its results ask for nothing. The key makes a series that is asked for twice one
-- job, until more images of it have come.

local LONGEST_WAIT_S = 10
local MOST_TRIES = 20

local pending = {}

local function settings()
  return GetOrthancConfiguration()['Islet'] or {}
end

local function token()
  local path = settings()['TokenFile']
  if path == nil then
    return nil
  end
  local file = assert(io.open(path, 'r'), 'Islet: the token file cannot be read')
  local line = file:read('*l')
  file:close()
  return line
end

local function ask(id)
  local series = ParseJson(RestApiGet('/series/' .. id))
  local study = ParseJson(RestApiGet('/series/' .. id .. '/study'))
  local uid = series['MainDicomTags']['SeriesInstanceUID']
  local headers = {
    ['Content-Type'] = 'application/json',
    ['Idempotency-Key'] = uid .. '-' .. tostring(#series['Instances'])
  }
  local bearer = token()
  if bearer ~= nil then
    headers['Authorization'] = 'Bearer ' .. bearer
  end
  local body = {
    server = settings()['Server'] or 'orthanc',
    study = study['MainDicomTags']['StudyInstanceUID'],
    series = uid,
    rules = true,
    store = true
  }
  -- Older ones have `HttpTimeout` in their configuration alone.
  if SetHttpTimeout ~= nil then
    SetHttpTimeout(LONGEST_WAIT_S)
  end
  return HttpPost(settings()['Url'] .. '/v1/dicomweb', DumpJson(body, true), headers) ~= nil
end

-- Asks again for what Islet could not take, with every series that comes and, in an Orthanc that
-- has heartbeats, without one.
local function ask_pending()
  for id, tries in pairs(pending) do
    local fine, taken = pcall(ask, id)
    if (fine and taken) or tries >= MOST_TRIES then
      pending[id] = nil
    else
      pending[id] = tries + 1
    end
    if not (fine and taken) then
      local why = fine and 'no answer, or a refusal' or tostring(taken)
      print('Islet did not take a series at try ' .. tostring(tries) .. ': ' .. why)
      return
    end
  end
end

function OnStableSeries(seriesId, tags, metadata)
  if tags['Modality'] ~= 'CT' or tags['Manufacturer'] == 'Islet' then
    return
  end
  pending[seriesId] = 1
  ask_pending()
end

function OnHeartBeat()
  ask_pending()
end

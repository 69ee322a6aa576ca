-- A job whose data are too large to be loaded.
--   read_without_data(job) -> {field, value...}   all that a supervisor reads but the data

local function read_without_data(job)
  local names = {
    'name', 'opts', 'timestamp', 'delay', 'priority', 'parentKey', 'parent', 'deid', 'rjk', 'processedOn', 'pb', 'ats',
    'atm', 'attemptsMade', 'stc', 'defa', 'progress', 'failedReason', 'stacktrace', 'sq_crashes', 'sq_interruptions',
    'sq_unknown', 'sq_fence',
  }
  local fields = {}
  for index, value in ipairs(redis.call('HMGET', job, unpack(names))) do
    if value then
      fields[#fields + 1] = names[index]
      fields[#fields + 1] = value
    end
  end
  return fields
end


-- Records outcomes, each unless one is recorded, and says which counts.
--
-- KEYS   a record each
-- ARGV   1 progress of one passage
--        then for each key: the message's progress; the progress of this attempt, finished; the attempt's name; its
--        outcome
-- Reply  for each key: the outcome that was recorded before, or one of
local FIRST, ABSENT, PASSED, BEHIND = 1, 0, -1, -2
local span = tonumber(ARGV[1])
local replies = {}
for i, key in ipairs(KEYS) do
  local known, finished = tonumber(ARGV[4 * i - 2]), tonumber(ARGV[4 * i - 1])
  local attempt, outcome = ARGV[4 * i], ARGV[4 * i + 1]
  local found = redis.pcall('HMGET', key, 'g', 'x', 'r' .. attempt)
  if found.err or redis.call('HEXISTS', key, 'o') == 0 then
    replies[i] = ABSENT
  else
    local progress = tonumber(found[1]) or 0
    if found[2] and math.floor(progress / span) >= math.floor(finished / span) then
      replies[i] = PASSED
    elseif progress < known then
      replies[i] = BEHIND
    elseif progress > finished then
      replies[i] = PASSED
    elseif found[3] then
      replies[i] = found[3]
    elseif progress == finished then
      -- A message has brought the outcome: the order has gone on.
      replies[i] = PASSED
    else
      redis.call('HSET', key, 'r' .. attempt, outcome, 'g', ARGV[4 * i - 1])
      replies[i] = FIRST
    end
  end
end
return replies

-- Adds events to the live feed, and takes the oldest out past the bound.
--
-- KEYS: the stream, the number of events in it. ARGV: the number of events, how many were dropped before them, the events,
-- and the bound. An entry holds all events that were told together, so it is events that are counted, not entries.
local stream, count = KEYS[1], KEYS[2]
local id = redis.call('XADD', stream, '*', 'n', ARGV[1], 'd', ARGV[2], 'e', ARGV[3])
local kept = redis.call('INCRBY', count, ARGV[1])
while kept > tonumber(ARGV[4]) do
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not first or first[1] == id then
    -- It was counted wrong: the stream was lost, and its count was not.
    redis.call('SET', count, ARGV[1])
    break
  end
  redis.call('XDEL', stream, first[1])
  kept = redis.call('DECRBY', count, first[2][2])
end

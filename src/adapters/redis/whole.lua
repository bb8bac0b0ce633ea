-- Since when every record that should be there is there.
--
-- KEYS   the marker
-- ARGV   1 now; 2 '1' if a record could not be written
-- Reply  the moment. A Redis that was started anew (its run_id is another) may have lost its last writes, and one
--        without a marker has lost everything.
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local marker = redis.call('HMGET', KEYS[1], 'run_id', 'since')
if ARGV[2] ~= '1' and marker[2] and marker[1] == run_id then
  return marker[2]
end
redis.call('HSET', KEYS[1], 'run_id', run_id or '', 'since', ARGV[1])
return ARGV[1]

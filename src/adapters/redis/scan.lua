-- Some of the records of orders that have not ended.
--
-- ARGV   1 the cursor; 2 the pattern of the keys; 3 how many keys to look at, about
-- Reply  the next cursor, then of each record its key and its text (nothing if it is no text)
local part = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local reply = { part[1] }
for _, key in ipairs(part[2]) do
  -- Most may have ended, and long ones are not to be copied for nothing: the whole text of those in flight only.
  local tail = read(key, true)
  local progress, word = progress_of(tail or '')
  if not progress or word ~= 'end' then
    reply[#reply + 1] = key
    reply[#reply + 1] = read(key)
  end
end
return reply

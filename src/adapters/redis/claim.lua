-- Writes records of derived ids, each unless there is one, and says whose it is.
--
-- KEYS   a record each
-- ARGV   1 time to live, ms
--        then for each key: the record
-- Reply  for each key one of
local NEW, WAITS, UNDER_WAY, OTHER = 0, 1, 2, 3
local ttl = ARGV[1]
local replies = {}
for i, key in ipairs(KEYS) do
  local record = ARGV[i + 1]
  if call('SET', key, record, 'NX', 'PX', ttl) then
    replies[i] = NEW
  else
    local progress, word = progress_of(tail_at(key))
    if not progress then
      call('SET', key, record, 'PX', ttl)
      replies[i] = NEW
    elseif digest_at(key) ~= brought_digest('record', record) then
      replies[i] = OTHER
    elseif word == 'put' and progress == progress_of(string.sub(record, -32)) then
      replies[i] = WAITS
    else
      replies[i] = UNDER_WAY
    end
  end
end
return replies

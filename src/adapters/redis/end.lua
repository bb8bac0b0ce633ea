-- Notes that orders have ended: their records take nothing more, and go after a while.
--
-- KEYS   a record each
-- ARGV   1 progress of one passage; 2 time to live of an ended record, ms
--        then for each run of keys that have this in common: how many they are; the orders' progress; what comes for
--        each key of the run beside its end: `nothing`, the `digest` of the order's content, or the `record` to write
--        in the place of one of other content
--        and for each key of the run: its end, and what else was announced
-- Reply  which keys (from 0) belong to an order of other content: nothing was written there
local span, ttl = tonumber(ARGV[1]), ARGV[2]
local others = {}
local i, a = 0, 3
while i < #KEYS do
  local passage, brings = math.floor(tonumber(ARGV[a + 1]) / span), ARGV[a + 2]
  local last = i + tonumber(ARGV[a])
  a = a + 3
  while i < last do
    i = i + 1
    local key, ending, digest, brought = KEYS[i], ARGV[a], nil, nil
    a = a + 1
    if brings ~= 'nothing' then
      brought = ARGV[a]
      a = a + 1
      digest = brought_digest(brings, brought)
    end
    local progress, word = progress_of(tail_at(key))
    local known = progress and math.floor(progress / span)
    if progress and passage > known then
      -- The whole passage went by without this record: the archive has what it lacks.
      call('DEL', key)
    elseif passage == known and word ~= 'end' then
      local is_others = digest and digest ~= digest_at(key)
      if is_others and brings ~= 'record' then
        others[#others + 1] = i - 1
      else
        -- First of all: a full Redis would refuse a script whose first write takes memory, and ends are what frees it.
        call('PEXPIRE', key, ttl)
        if is_others then
          call('SET', key, brought .. ending, 'PX', ttl)
        else
          call('APPEND', key, ending)
        end
      end
    end
  end
end
return others

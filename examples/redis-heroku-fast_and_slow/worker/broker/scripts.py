"""What the broker lets Redis run: a queue is four keys, which all scripts are told of, and a group, ARGV[1].

KEYS[1] is the stream of tasks that are to be run as soon as may be. KEYS[2] is that of tasks that were queued for
later, whose entries also hold from when on: it is not read in its order, and none waits for its turn in the other.
KEYS[3] is the sorted set of what is to be taken when it is due: tasks that were never taken are nobody's in the group,
and those that were given back belong to a consumer of that name. KEYS[4] holds one entry that changes with KEYS[3], so
that all who wait hear of it. A task's receipt is its id, with a + if it was queued for later.

Scripts are atomic: nothing comes between the look at who holds a task and what is done to it. And a server whose memory
is full runs those that add nothing to it, where it refuses any transaction, and so could not be emptied.
"""

#: what all scripts that know the group begin with
WORDS = """
local stream, later, due, wake, group = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
local function fields(list)
    local found = {}
    for i = 1, #list, 2 do found[list[i]] = list[i + 1] end
    return found
end
local function place(receipt)
    if receipt:sub(-1) == '+' then return later, receipt:sub(1, -2) end
    return stream, receipt
end
local function pending(receipt)
    local key, id = place(receipt)
    return redis.call('XPENDING', key, group, id, id, 1)[1], key, id
end
local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function take(receipt, count)
    local key, id = place(receipt)
    redis.call('XCLAIM', key, group, ARGV[2], 0, id, 'FORCE', 'RETRYCOUNT', count, 'JUSTID')
end
local function payload(receipt)
    local key, id = place(receipt)
    local entry = redis.call('XRANGE', key, id, id)[1]
    if entry then return entry[2][2] end
    redis.call('XACK', key, group, id)
end
"""
# First what is due. Then what waits: a few at a time, since their size is known once they are there; those too many are
# set back to where they were. If there is nothing, who asks is told from where to wait for news, and how long.
CLAIM = """
local taken, left, over, last = {}, tonumber(ARGV[4]), {}, nil
for _, receipt in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now(), 'LIMIT', 0, ARGV[3])) do
    local text = payload(receipt)
    local held = text and pending(receipt)
    if text and (not held or held[2] == ARGV[5]) then
        left = left - #text
        if #taken > 0 and left < 0 then return taken end
        local count = held and held[4] + 1 or 1
        take(receipt, count)
        for _, part in ipairs({receipt, text, count, held and 'again' or 'delayed'}) do taken[#taken + 1] = part end
    end
    redis.call('ZREM', due, receipt)
end
if #taken > 0 then return taken end
while #taken < 4 * ARGV[3] and #over == 0 do
    local read = redis.call('XREADGROUP', 'GROUP', group, ARGV[2], 'COUNT', math.min(10, ARGV[3] - #taken / 4),
                            'STREAMS', stream, '>')
    if not read then break end
    for _, entry in ipairs(read[1][2]) do
        local id, text = entry[1], entry[2][2]
        left = left - #text
        if left < 0 and last then
            over[#over + 1] = id
        else
            for _, part in ipairs({id, text, 1, 'new'}) do taken[#taken + 1] = part end
            last = id
        end
    end
end
if #over > 0 then
    redis.call('XACK', stream, group, unpack(over))
    redis.call('XGROUP', 'SETID', stream, group, last)
end
if #taken > 0 then return taken end
for _, list in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local info = fields(list)
    if info.name == group then last = info['last-delivered-id'] end
end
local told = redis.call('XREVRANGE', wake, '+', '-', 'COUNT', 1)[1]
local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
return {last, told and told[1] or '0-0', first[2] and math.max(1, math.ceil(first[2] - now())) or -1}
"""
# What is in a stream no more is forgotten. What was given back has a lease too, which is renewed here: so it is found
# though the sorted set may be lost.
RECLAIM = """
local taken, left, looked = {}, tonumber(ARGV[4]), 0
for _, mark in ipairs({'', '+'}) do
    local from, size = '-', 0
    repeat
        local look = mark == '' and redis.call or redis.pcall  -- nothing may ever have been queued for later
        local found = look('XPENDING', place(mark), group, 'IDLE', ARGV[6], from, '+', 100)
        size, looked = #found, looked + #found
        for _, lapsed in ipairs(found) do
            local receipt, count, returned = lapsed[1] .. mark, lapsed[4] + 1, lapsed[2] == ARGV[5]
            from = '(' .. lapsed[1]
            if returned and redis.call('ZSCORE', due, receipt) then
                redis.call('XCLAIM', place(mark), group, ARGV[5], 0, lapsed[1], 'RETRYCOUNT', lapsed[4], 'JUSTID')
            else
                local text = payload(receipt)
                if text then
                    left = left - #text
                    if #taken > 0 and left < 0 then return taken end
                    take(receipt, count)
                    for _, part in ipairs({receipt, text, count, 'again'}) do taken[#taken + 1] = part end
                end
                redis.call('ZREM', due, receipt)
                if #taken >= 4 * ARGV[3] then return taken end
            end
        end
    until size < 100 or looked > 10000
end
return taken
"""
# JUSTID: it does not count as another delivery.
RENEW = """
local lost = {}
for i = 3, #ARGV do
    local held, key, id = pending(ARGV[i])
    if not held or held[2] ~= ARGV[2] or #redis.call('XCLAIM', key, group, ARGV[2], 0, id, 'JUSTID') == 0 then
        lost[#lost + 1] = ARGV[i]
    end
end
return lost
"""
# The delivery is uncounted: its cluster has not died of it, and failed attempts are counted elsewhere. The sorted set
# comes second, since a server that is full takes more only from a script that has written.
RELEASE = """
local start, told = now(), false
for i = 4, #ARGV, 2 do
    local held, key, id = pending(ARGV[i])
    if held and held[2] == ARGV[2] then
        redis.call('XCLAIM', key, group, ARGV[3], 0, id, 'RETRYCOUNT', math.max(held[4] - 1, 0), 'JUSTID')
        redis.call('ZADD', due, start + ARGV[i + 1], ARGV[i])
        told = true
    end
end
if told then redis.call('XADD', wake, 'MAXLEN', 1, '*', 'changed', start) end
"""
REMOVE = """
local mine, held = {[stream] = {}, [later] = {}}, {}
for i = 3, #ARGV do
    local key, id = place(ARGV[i])
    if not held[key] then
        held[key] = {}
        for _, task in ipairs(redis.call('XPENDING', key, group, '-', '+', 1000000, ARGV[2])) do
            held[key][task[1]] = true
        end
    end
    if held[key][id] then table.insert(mine[key], id) end
end
for key, ids in pairs(mine) do
    for i = 1, #ids, 1000 do
        local last = math.min(i + 999, #ids)
        redis.call('XACK', key, group, unpack(ids, i, last))
        redis.call('XDEL', key, unpack(ids, i, last))
    end
end
"""
ENQUEUE_ALL = "for _, payload in ipairs(ARGV) do redis.call('XADD', KEYS[1], '*', 'payload', payload) end"
# The parts of a millisecond let those that are due together keep their order.
ENQUEUE_LATER = """
local receipt
for i = 2, #ARGV do
    receipt = redis.call('XADD', KEYS[2], '*', 'payload', ARGV[i], 'after', ARGV[1]) .. '+'
    redis.call('ZADD', KEYS[3], ARGV[1] + (i - 2) / 4096, receipt)
end
redis.pcall('XGROUP', 'CREATE', KEYS[2], 'workers', 0)  -- by a worker it could not be made once the server is full
redis.call('XADD', KEYS[4], 'MAXLEN', 1, '*', 'changed', ARGV[1])
return receipt
"""
# XGROUP DELCONSUMER would drop a consumer's tasks with it, so nothing may come between the look and the deletion. If
# the sorted set has less than it should, what was queued for later is put there anew.
TIDY = """
local missing = redis.call('XLEN', later) - redis.call('ZCARD', due)
for _, key in ipairs({stream, later}) do
    local look = key == stream and redis.call or redis.pcall
    for _, list in ipairs(look('XINFO', 'CONSUMERS', key, group)) do
        local field = fields(list)
        if field.pending == 0 and field.idle > tonumber(ARGV[2]) then
            redis.call('XGROUP', 'DELCONSUMER', key, group, field.name)
        elseif field.name == ARGV[4] and key == stream then
            missing = missing + field.pending
        elseif field.name ~= ARGV[4] and key == later then
            missing = missing - field.pending
        end
    end
end
local entries = missing > 0 and redis.call('XRANGE', later, '-', '+', 'COUNT', 100) or {}
while #entries > 0 do
    for _, entry in ipairs(entries) do
        local receipt = entry[1] .. '+'
        if not pending(receipt) then redis.call('ZADD', due, 'NX', entry[2][4], receipt) end
    end
    entries = redis.call('XRANGE', later, '(' .. entries[#entries][1], '+', 'COUNT', 100)
end
local payloads = redis.call('LRANGE', KEYS[5], 0, ARGV[3] - 1)
for _, payload in ipairs(payloads) do redis.call('XADD', stream, '*', 'payload', payload) end
redis.call('LTRIM', KEYS[5], #payloads, -1)
return #payloads
"""

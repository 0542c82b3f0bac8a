"""What the broker lets Redis run for those who look into a queue, or take something out: see scripts.py.

ARGV[2] is whom tasks belong to that were given back, ARGV[3] the milliseconds of a lease.
"""

#: what DEPTH and PURGE begin with: who holds tasks, and which under a lease that goes on
HELD = """
local function holders(key)
    local look = key == stream and redis.call or redis.pcall  -- nothing may ever have been queued for later
    local found = {}
    for _, consumer in ipairs(look('XPENDING', key, group)[4] or {}) do
        if consumer[1] ~= ARGV[2] then found[#found + 1] = consumer end
    end
    return found
end
local function lapsed(key, consumer)
    return redis.call('XPENDING', key, group, 'IDLE', ARGV[3], '-', '+', consumer[2], consumer[1])
end
local function held(key)
    local found = {}
    for _, consumer in ipairs(holders(key)) do
        for _, task in ipairs(redis.call('XPENDING', key, group, '-', '+', consumer[2], consumer[1])) do
            found[task[1]] = task[3] < tonumber(ARGV[3])
        end
    end
    return found
end
"""
# What waits is what is there and neither due later nor held.
DEPTH = """
local start, taken, oldest = now(), 0, math.huge
local later_on = redis.call('ZCOUNT', due, '(' .. start, '+inf')
for _, key in ipairs({stream, later}) do
    for _, consumer in ipairs(holders(key)) do
        local free = lapsed(key, consumer)
        taken = taken + consumer[2] - #free
        for _, task in ipairs(free) do oldest = math.min(oldest, start - task[3] + ARGV[3]) end
    end
end
local first = redis.call('ZRANGEBYSCORE', due, '-inf', start, 'WITHSCORES', 'LIMIT', 0, 1)
if first[2] then oldest = math.min(oldest, first[2]) end
for _, list in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local info = fields(list)
    if info.name == group then
        local entry = redis.call('XRANGE', stream, '(' .. info['last-delivered-id'], '+', 'COUNT', 1)[1]
        if entry then oldest = math.min(oldest, entry[1]:match('%d+')) end
    end
end
local all = redis.call('XLEN', stream) + redis.call('XLEN', later)
return {all - later_on - taken, later_on, taken, oldest < math.huge and oldest or -1}
"""
# A lease that has run out is nobody's: whoever had it will find that it is lost.
TAKE_OUT = """
local receipt = ARGV[4]
local key, id = place(receipt)
if redis.call('EXISTS', key) == 0 then return 0 end
local owner = pending(receipt)
if owner and owner[2] ~= ARGV[2] and owner[3] < tonumber(ARGV[3]) then return 0 end
redis.call('XACK', key, group, id)
redis.call('ZREM', due, receipt)
return redis.call('XDEL', key, id)
"""
# A few entries at a time, since their payloads are read with them; returns where to go on, and where to end.
PURGE = """
local key, from, last, looked, removed = place(ARGV[4]), ARGV[5], ARGV[6], 0, 0
if last == '+' then
    local entry = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
    if not entry then return {0, '', ''} end
    last = entry[1]
end
local kept = held(key)
while looked < 10000 do
    local entries = redis.call('XRANGE', key, from, last, 'COUNT', 10)
    local ids, receipts = {}, {}
    for _, entry in ipairs(entries) do
        from = '(' .. entry[1]
        if not kept[entry[1]] then
            ids[#ids + 1], receipts[#receipts + 1] = entry[1], entry[1] .. ARGV[4]
        end
    end
    if #ids > 0 then
        redis.call('XACK', key, group, unpack(ids))
        redis.call('ZREM', due, unpack(receipts))
        removed = removed + redis.call('XDEL', key, unpack(ids))
    end
    looked = looked + #entries
    if #entries < 10 then return {removed, '', ''} end
end
return {removed, from, last}
"""
PAYLOADS = """
local found, left, number = {}, tonumber(ARGV[5]), 0
local key, from = place(ARGV[2]), ARGV[3]
while left > 0 and number < math.min(ARGV[4], 1000) do
    local entries = redis.call('XRANGE', key, from, '+', 'COUNT', math.min(10, ARGV[4] - number))
    for _, entry in ipairs(entries) do
        from, left, number = '(' .. entry[1], left - #entry[2][2], number + 1
        found[2 * number - 1], found[2 * number] = entry[1], entry[2][2]
    end
    if #entries == 0 then break end
end
return found
"""

-- Arguments: METHOD, REPEATS, BODY (may be empty), and a file with a path a line. Each thread has its
-- own paths, and asks for each so many times before it takes the next. Prints what it found as JSON.

local threads = 0

function setup(thread)
    thread:set("number", threads)
    threads = threads + 1
end

function init(arguments)
    local method, repeats, body, file = unpack(arguments)
    local all = {}
    for path in io.lines(file) do
        all[#all + 1] = path
    end
    local headers = { ["Content-Type"] = "application/json" }
    requests = {}
    for index = number + 1, #all, tonumber(wrk.headers["X-Threads"]) do
        requests[#requests + 1] = wrk.format(method, all[index], headers, body ~= "" and body or nil)
    end
    times, asked = tonumber(repeats), 0
end

function request()
    local index = math.floor(asked / times) % #requests + 1
    asked = asked + 1
    return requests[index]
end

function done(summary, latency)
    local errors = summary.errors
    print(string.format(
        '{"requests_per_second": %f, "p50": %d, "p99": %d, "errors": %d}',
        summary.requests / summary.duration * 1e6, latency:percentile(50), latency:percentile(99),
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end

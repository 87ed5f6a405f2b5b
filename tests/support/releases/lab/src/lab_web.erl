%%% The endpoint, on the loopback interface only: GET / tells the facts, GET /probe/KIND says 200 or 503 or nothing,
%%% any other path is a knob of `lab': 200, or 404 for one that there is not. Its port is LAB_PORT, 8080 by default.
-module(lab_web).

-export([start_link/1, listen/1]).

%% @doc Name is the application whose version is told.
start_link(Name) ->
    proc_lib:start_link(?MODULE, listen, [Name]).

listen(Name) ->
    Port = list_to_integer(os:getenv("LAB_PORT", "8080")),
    {ok, Listener} = gen_tcp:listen(Port, [binary, {ip, {127, 0, 0, 1}}, {active, false}, {reuseaddr, true},
                                           {packet, http_bin}]),
    proc_lib:init_ack({ok, self()}),
    accept(Listener, facts(Name)).

accept(Listener, Facts) ->
    {ok, Client} = gen_tcp:accept(Listener),
    Server = spawn(fun() -> receive go -> serve(Client, Facts) end end),
    ok = gen_tcp:controlling_process(Client, Server),
    Server ! go,
    accept(Listener, Facts).

serve(Client, Facts) ->
    {ok, {http_request, _Method, {abs_path, Target}, _Version}} = gen_tcp:recv(Client, 0, 5000),
    Path = [uri_string:percent_decode(Part) || Part <- binary:split(Target, <<"/">>, [global, trim_all])],
    {Status, Body} = reply(Path, Facts),
    _ = gen_tcp:send(Client, ["HTTP/1.0 ", Status, "\r\nContent-Type: application/json\r\nContent-Length: ",
                              integer_to_list(iolist_size(Body)), "\r\n\r\n", Body]),
    gen_tcp:shutdown(Client, write).

reply([], Facts) ->
    {"200 OK", Facts};
reply([<<"probe">>, Kind], _Facts) ->
    case lab:probe(Kind) of
        ok -> {"200 OK", "{\"good\":true}"};
        _Bad -> {"503 Service Unavailable", "{\"good\":false}"}
    end;
reply(Path, _Facts) ->
    case lab:turn(Path) of
        ok -> {"200 OK", "{\"turned\":true}"};
        unknown -> {"404 Not Found", "{\"turned\":false}"}
    end.

facts(Name) ->
    {ok, Version} = application:get_key(Name, vsn),
    {ok, Clock} = file:read_file("/proc/uptime"),
    [Uptime | _] = string:lexemes(Clock, " "),
    io_lib:format("{\"name\":\"~s\",\"version\":\"~s\",\"os_pid\":~s,\"started_ms\":~b}",
                  [Name, Version, os:getpid(), round(1000 * binary_to_float(Uptime))]).

%%% Beats, and writes what it knows to foreign_systools.json in its working directory.
-module(foreign_systools).
-behaviour(gen_server).

-export([start_link/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

init([]) ->
    {ok, Version} = application:get_key(foreign_systools, vsn),
    Site = os:getenv("FOREIGN_SITE", ""),
    Port = list_to_integer(os:getenv("FOREIGN_PORT", "0")),
    {ok, _} = timer:send_interval(200, beat),
    serve(Port),
    {ok, #{count => read(), version => Version, site => Site}}.

handle_call(look, _From, State) ->
    {reply, text(State), State}.

handle_cast(_Message, State) ->
    {noreply, State}.

handle_info(beat, #{count := Count} = State) ->
    New = State#{count := Count + 1},
    ok = file:write_file("foreign_systools.tmp", text(New)),
    ok = file:rename("foreign_systools.tmp", "foreign_systools.json"),
    {noreply, New}.

read() ->
    case file:read_file("foreign_systools.json") of
        {ok, Text} ->
            {match, [Count]} = re:run(Text, "\"count\":([0-9]+)", [{capture, all_but_first, list}]),
            list_to_integer(Count);
        {error, enoent} ->
            0
    end.

text(#{count := Count, version := Version, site := Site}) ->
    io_lib:format("{\"name\":\"foreign_systools\",\"version\":\"~s\",\"count\":~b,\"site\":\"~s\",\"os_pid\":~s}~n",
                  [Version, Count, Site, os:getpid()]).

serve(0) ->
    ok;
serve(Port) ->
    {ok, Listener} = gen_tcp:listen(Port, [binary, {ip, {127, 0, 0, 1}}, {active, false}, {reuseaddr, true}]),
    Server = self(),
    spawn_link(fun() -> accept(Listener, Server) end),
    ok.

accept(Listener, Server) ->
    {ok, Client} = gen_tcp:accept(Listener),
    _ = gen_tcp:recv(Client, 0, 2000),
    Text = unicode:characters_to_binary(gen_server:call(Server, look)),
    _ = gen_tcp:send(Client, ["HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: ",
                              integer_to_list(byte_size(Text)), "\r\n\r\n", Text]),
    gen_tcp:close(Client),
    accept(Listener, Server).

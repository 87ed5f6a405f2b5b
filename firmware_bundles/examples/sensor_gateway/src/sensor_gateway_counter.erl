%%% Counts the readings and keeps the count in the file `count' of the data directory.
%%%
%%% The file is replaced (written aside, synced, renamed) about once a second while the count moves, by a process of
%%% its own so that a slow disk never holds up the counting, and once more at the end.
-module(sensor_gateway_counter).
-behaviour(gen_server).

-export([start_link/1, look/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-define(HEALTHY_MS, 2000).

start_link(Data) ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, Data, []).

%% @doc The count, and whether the last reading is young enough.
-spec look() -> #{count := non_neg_integer(), healthy := boolean()}.
look() ->
    try
        gen_server:call(?MODULE, look, 1000)
    catch
        exit:_ -> #{count => 0, healthy => false}
    end.

init(Data) ->
    process_flag(trap_exit, true),
    {ok, TickMs} = application:get_env(sensor_gateway, tick_ms),
    {ok, SaveMs} = application:get_env(sensor_gateway, save_ms),
    {ok, _} = timer:send_interval(TickMs, tick),
    {ok, _} = timer:send_interval(SaveMs, save),
    File = filename:join(Data, "count"),
    Count = read(File),
    {ok, #{file => File, count => Count, saved => Count, saver => none, last_ms => now_ms()}}.

handle_call(look, _From, #{count := Count, last_ms := Last} = State) ->
    {reply, #{count => Count, healthy => now_ms() - Last < ?HEALTHY_MS}, State}.

handle_cast(_Message, State) ->
    {noreply, State}.

handle_info(tick, #{count := Count} = State) ->
    {noreply, State#{count := Count + 1, last_ms := now_ms()}};
handle_info(save, #{count := Count, saved := Saved, saver := none, file := File} = State) when Count =/= Saved ->
    Saver = spawn_link(fun() -> write(File, Count) end),
    {noreply, State#{saver := Saver, saved := Count}};
handle_info(save, State) ->
    {noreply, State};
handle_info({'EXIT', Saver, normal}, #{saver := Saver} = State) ->
    {noreply, State#{saver := none}};
handle_info({'EXIT', Saver, Reason}, #{saver := Saver} = State) ->
    logger:error("the count could not be saved: ~0tp", [Reason]),
    {noreply, State#{saver := none, saved := none}};
handle_info({'EXIT', _Parent, Reason}, State) ->
    {stop, Reason, State}.

terminate(_Reason, #{saver := Saver, file := File, count := Count}) ->
    receive
        {'EXIT', Saver, _} -> ok
    after case Saver of none -> 0; _ -> 2000 end -> ok
    end,
    write(File, Count).

read(File) ->
    case file:read_file(File) of
        {ok, Text} -> binary_to_integer(string:trim(Text));
        {error, enoent} -> 0
    end.

write(File, Count) ->
    Aside = File ++ ".tmp",
    ok = file:write_file(Aside, [integer_to_binary(Count), $\n], [raw, sync]),
    ok = file:rename(Aside, File).

now_ms() ->
    erlang:monotonic_time(millisecond).

%%% A release that gets ill on demand. Each knob is a path, turned by lab_web or, at the start, by LAB_KNOBS:
%%%
%%%   processes/N           hold so many idle processes        queue/N     messages in the queue of `lab_queue'
%%%   binaries/MB           hold so much, written to           ets/N       hold so many tables
%%%   atoms/PERMILLE        fill the table of atoms so far; there is no way back
%%%   busy/N/MS             so many processes that do nothing but count
%%%   crash/N               the supervised child `lab_child' dies so often, one after the other
%%%   metric/NAME/NUMBER    say/ok  say/degraded/REASON  say/failing/REASON  confirm      what beamfleet_link tells
%%%   probe/KIND/good|bad|hang      what lab:KIND/0, GET /probe/KIND and the command `bin/check KIND' find
%%%   print/N/TEXT          so many lines on standard output   log/LEVEL/TEXT    through the logger
%%%   hang                  the whole VM stands still          halt/STATUS, halt/abort, stop
%%%
%%% Numbers replace what was held before: 0 lets it go. Out of memory is `binaries' above what the machine has.
-module(lab).
-behaviour(gen_server).

-export([start_link/0, turn/1, probe/1, startup/0, readiness/0, liveness/0]).
-export([init/1, handle_call/3, handle_cast/2]).

-define(TURN_MS, 120000).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc Turns a knob, given by the parts of its path.
-spec turn([binary()]) -> ok | unknown.
turn(Path) ->
    gen_server:call(?MODULE, {turn, Path}, ?TURN_MS).

startup() -> probe(<<"startup">>).
readiness() -> probe(<<"readiness">>).
liveness() -> probe(<<"liveness">>).

%% @doc What a probe of this kind finds; its file in the working directory is what `bin/check' looks at, too.
probe(Kind) ->
    case file:read_file(<<"lab.", Kind/binary>>) of
        {error, enoent} -> ok;
        {ok, <<"bad">>} -> {bad, Kind};
        {ok, <<"hang">>} -> timer:sleep(infinity)
    end.

init([]) ->
    _ = [file:delete(File) || File <- filelib:wildcard("lab.{startup,readiness,liveness}")],
    Paths = string:lexemes(unicode:characters_to_binary(os:getenv("LAB_KNOBS", "")), " "),
    {ok, lists:foldl(fun(Path, Held) -> set(binary:split(Path, <<"/">>, [global]), Held) end, #{}, Paths)}.

handle_call({turn, Path}, _From, Held) ->
    try set(Path, Held) of
        Later -> {reply, ok, Later, hibernate}
    catch
        error:function_clause -> {reply, unknown, Held}
    end.

handle_cast(_Message, Held) ->
    {noreply, Held}.

set([<<"processes">>, N], Held) ->
    kill(maps:get(processes, Held, [])),
    Held#{processes => [spawn(fun() -> receive never -> ok end end) || _ <- lists:seq(1, number(N))]};
set([<<"queue">>, N], Held) ->
    kill(maps:get(queue, Held, [])),
    Deaf = spawn(fun() -> true = register(lab_queue, self()), receive never -> ok end end),
    _ = [Deaf ! {message, I} || I <- lists:seq(1, number(N))],
    Held#{queue => [Deaf]};
set([<<"binaries">>, Megabytes], Held) ->
    Page = binary:copy(<<$.>>, 4096),
    Held#{binaries => [binary:copy(Page, 256) || _ <- lists:seq(1, number(Megabytes))]};
set([<<"ets">>, N], Held) ->
    _ = [ets:delete(Table) || Table <- maps:get(ets, Held, [])],
    Held#{ets => [ets:new(lab, []) || _ <- lists:seq(1, number(N))]};
set([<<"atoms">>, Permille], Held) ->
    Wanted = (erlang:system_info(atom_limit) * number(Permille) + 999) div 1000,
    _ = [binary_to_atom(<<"lab atom ", (integer_to_binary(I))/binary>>)
         || I <- lists:seq(erlang:system_info(atom_count) + 1, Wanted)],
    Held;
set([<<"busy">>, N, Milliseconds], Held) ->
    Until = erlang:monotonic_time(millisecond) + number(Milliseconds),
    _ = [spawn(fun() -> count(0, Until) end) || _ <- lists:seq(1, number(N))],
    Held;
set([<<"crash">>, N], Held) ->
    _ = [crash(whereis(lab_child)) || _ <- lists:seq(1, number(N))],
    Held;
set([<<"metric">>, Name, Number], Held) ->
    ok = beamfleet_link:metric(Name, number(Number)),
    Held;
set([<<"say">>, <<"ok">>], Held) ->
    ok = beamfleet_link:health(ok),
    Held;
set([<<"say">>, Status, Reason], Held) when Status =:= <<"degraded">>; Status =:= <<"failing">> ->
    ok = beamfleet_link:health({binary_to_existing_atom(Status), Reason}),
    Held;
set([<<"confirm">>], Held) ->
    ok = beamfleet_link:confirm(),
    Held;
set([<<"probe">>, Kind, <<"good">>], Held) ->
    _ = file:delete(<<"lab.", Kind/binary>>),
    Held;
set([<<"probe">>, Kind, Word], Held) when Word =:= <<"bad">>; Word =:= <<"hang">> ->
    ok = file:write_file(<<"lab.", Kind/binary>>, Word),
    Held;
set([<<"print">>, N, Text], Held) ->
    _ = [io:format("~ts~n", [Text]) || _ <- lists:seq(1, number(N))],
    Held;
set([<<"log">>, Level, Text], Held) ->
    logger:log(binary_to_existing_atom(Level), "~ts", [Text]),
    Held;
set([<<"hang">>], Held) ->
    later(fun() -> os:cmd("kill -STOP " ++ os:getpid()) end),
    Held;
set([<<"halt">>, <<"abort">>], Held) ->
    later(fun() -> erlang:halt(abort) end),
    Held;
set([<<"halt">>, Status], Held) ->
    later(fun() -> erlang:halt(number(Status)) end),
    Held;
set([<<"stop">>], Held) ->
    later(fun init:stop/0),
    Held.

%% After the answer to whoever turned it.
later(Fun) ->
    spawn(fun() -> timer:sleep(200), Fun() end).

%% Dies with a report, and is back.
crash(Child) when is_pid(Child) ->
    Monitor = monitor(process, Child),
    Child ! crash,
    receive {'DOWN', Monitor, process, Child, _} -> await_another(Child) end.

await_another(Child) ->
    case whereis(lab_child) of
        Other when is_pid(Other), Other =/= Child -> ok;
        _NotYet -> timer:sleep(5), await_another(Child)
    end.

count(N, Until) ->
    case N rem 1000 =/= 0 orelse erlang:monotonic_time(millisecond) < Until of
        true -> count(N + 1, Until);
        false -> ok
    end.

kill(Pids) ->
    Monitors = [monitor(process, Pid) || Pid <- Pids],
    _ = [exit(Pid, kill) || Pid <- Pids],
    [receive {'DOWN', Monitor, process, _, _} -> ok end || Monitor <- Monitors].

number(Text) ->
    try binary_to_integer(Text) catch error:badarg -> binary_to_float(Text) end.

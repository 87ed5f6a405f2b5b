%%% The window through which the device sees its running release, and the words a release may say of itself there.
%%%
%%% The launcher loads it by a caught `-eval' once the boot script has run, so that its first act, the `started' file,
%%% says "this release booted". From then on it answers each connection on a Unix socket with one line of JSON and
%%% closes it. A release may depend on it as on any library, to have metric/2, health/1 and confirm/0 without a device.
%%%
%%% start/1 -> keeper (unlinked, unsupervised) -> announce once -> serve, restarted by the keeper when it dies
%%% metric/2, health/1, confirm/0 -> a table that a process of its own holds
%%% primary logger filter -> counts in that table what supervisors restart
%%%
%%% It never raises into the release, never links to it, never reads what a client says, never touches an
%%% application's state, never changes a log event, and stands on kernel and stdlib alone (OTP 25 and later).
-module(beamfleet_link).

-export([start/1, metric/2, health/1, confirm/0]).
-export([keep/1, hold/0, count_restart/2]). % for ourselves alone: what waits or is called goes on in newer code

-define(VERSION, 2).
-define(NAME, ?MODULE).
-define(FIRST_PAUSE_MS, 500).
-define(LAST_PAUSE_MS, 30000).
-define(CALL_TIMEOUT_MS, 2000).
-define(SEND_TIMEOUT_MS, 2000).
-define(PROBES_MS, 2000).
-define(SCAN_MS, 100).
-define(SCAN_GIVEN_UP_MS, 1000).
-define(SCAN_PROCESSES, 20000).
-define(SCAN_STEP, 500).
-define(QUEUES, 5).
-define(LONG_QUEUE, 10).
-define(METRICS, 16).
-define(NAME_CHARACTERS, 64).
-define(TEXT_CHARACTERS, 120).
-define(MAX_INTEGER, 9007199254740991). % what every reader of JSON takes
-define(MAX_HEAP_TO_NAME, 2000000). % words: a dictionary is copied as a whole to see what a process began as

-type path() :: file:name_all().
-type probe() :: {startup | readiness | liveness, module(), Function :: atom(), TimeoutMs :: pos_integer()}.
-type options() :: #{socket := path(), started := path(), boot := non_neg_integer(), probes => [probe()]}.

%% @doc Starts the link and returns at once; a second call in the same VM changes nothing.
%%
%% `started' is created (boot number and newline, by rename) before the socket exists. A socket path is at most 107
%% bytes long: where the absolute one is longer, give it relative to the VM's working directory. A probe is well when
%% its function returns `true' or `ok' within its time; it is called for each answer, at most once at a time.
-spec start(options()) -> ok.
start(#{socket := _, started := _, boot := Boot} = Options) when is_integer(Boot) ->
    _ = spawn(fun() ->
        case catch register(?NAME, self()) of
            true -> take(#{options => Options, step => started, pause => ?FIRST_PAUSE_MS});
            _AlreadyRunning -> ok
        end
    end),
    ok.

%% @doc Tells a number under a name of at most 32 of a-z, 0-9 and _, a letter first; the newest counts.
%%
%% There is room for 16 names. It costs a few microseconds and never fails: what cannot be told is left out, and the
%% first of that kind is logged as a warning.
-spec metric(atom() | binary() | string(), number()) -> ok.
metric(Name, Number) ->
    say(metric, {Name, Number}, fun() -> insert_metric(metric_name(Name), metric_value(Number)) end).

%% @doc Tells how the release finds itself. A reason is text, or any term; its first 120 characters are told.
-spec health(ok | {degraded | failing, Reason :: term()}) -> ok.
health(Health) ->
    say(health, Health, fun() -> ets:insert(?NAME, {said, said(Health)}) end).

%% @doc Tells that this release is to be kept, for a release whose trial waits for that (`bundle build --confirm').
-spec confirm() -> ok.
confirm() ->
    say(confirm, true, fun() -> ets:insert(?NAME, {confirm, true}) end).

%% --- What the release says: in a table, so that saying waits for nobody --------------------------------------------

say(Word, What, Insert) ->
    try
        open(),
        true = Insert(),
        ok
    catch
        _:_ -> catch complain_once(Word, What), ok
    end.

complain_once(Word, What) ->
    ets:insert_new(?NAME, {{left_out, Word}}) andalso
        logger:warning("beamfleet_link: this ~ts cannot be told: ~0tP", [Word, What, 12]).

said(ok) -> [<<"ok">>, <<>>];
said({Status, Reason}) when Status =:= degraded; Status =:= failing ->
    [atom_to_binary(Status), text(Reason, ?TEXT_CHARACTERS)].

metric_name(Name) when is_atom(Name) -> metric_name(atom_to_binary(Name));
metric_name(Name) when is_list(Name) -> metric_name(list_to_binary(Name));
metric_name(<<First, Rest/binary>> = Name) when First >= $a, First =< $z, byte_size(Rest) < 32 ->
    <<>> = << <<C>> || <<C>> <= Rest, not (C >= $a andalso C =< $z orelse C >= $0 andalso C =< $9 orelse C =:= $_) >>,
    Name.

metric_value(Integer) when is_integer(Integer), abs(Integer) =< ?MAX_INTEGER -> Integer;
metric_value(Number) -> float(Number).

insert_metric(Name, Value) ->
    Key = {metric, Name},
    ets:member(?NAME, Key) orelse (true = length(metrics()) < ?METRICS),
    ets:insert(?NAME, {Key, Value}).

metrics() ->
    [{Name, Value} || [Name, Value] <- ets:match(?NAME, {{metric, '$1'}, '$2'})].

%% Makes the table where there is none yet. Its holder belongs to no application: it would end with that.
open() ->
    ets:whereis(?NAME) =/= undefined orelse begin
        {Holder, Monitor} = spawn_monitor(fun open_and_hold/0),
        Holder ! {opened, self(), Monitor},
        receive
            {opened, Monitor} -> demonitor(Monitor, [flush]);
            {'DOWN', Monitor, process, Holder, _AnotherWasFirst} -> true
        end
    end.

open_and_hold() ->
    group_leader(whereis(init), self()),
    receive
        {opened, Asker, Monitor} ->
            case catch ets:new(?NAME, [named_table, public]) of
                ?NAME ->
                    ets:insert(?NAME, {restarts, 0}),
                    Asker ! {opened, Monitor},
                    hold();
                _AnotherWasFirst -> ok
            end
    end.

%% @private
-spec hold() -> no_return().
hold() ->
    receive _Stray -> ok after 0 -> ok end,
    erlang:hibernate(?MODULE, hold, []).

%% --- What supervisors restart, told by the reports that they log ----------------------------------------------------

%% First of the primary filters, where the newest is put: Elixir's Logger drops supervisors' reports in one of its own
%% unless it is asked not to.
listen() ->
    case maps:get(filters, logger:get_primary_config()) of
        [{?NAME, _} | _] -> ok;
        _Others ->
            _ = logger:remove_primary_filter(?NAME),
            logger:add_primary_filter(?NAME, {fun ?MODULE:count_restart/2, []})
    end.

%% @private
-spec count_restart(logger:log_event(), term()) -> ignore.
count_restart(#{msg := {report, #{label := {_Supervisor, child_terminated}, report := [_ | _] = Report}}}, _) ->
    try proplists:get_value(restart_type, proplists:get_value(offender, Report)) of
        temporary -> ignore;
        _Restarted -> ets:update_counter(?NAME, restarts, 1), ignore
    catch
        _:_ -> ignore
    end;
count_restart(_Event, _) ->
    ignore.

%% --- The keeper: outlives whatever happens to the server ------------------------------------------------------------

take(#{step := Step, options := Options} = Keeper) ->
    {_, Monitor} = spawn_monitor(fun() -> exit(try act(Step, Options) catch _:Reason -> Reason end) end),
    rest(Keeper#{awaited => Monitor, began => now_ms()}).

%% Hibernating, it stands in no code: code that is purged ends the server at most.
rest(Keeper) ->
    erlang:hibernate(?MODULE, keep, [Keeper]).

%% @private
-spec keep(map()) -> no_return().
keep(#{awaited := Awaited} = Keeper) ->
    receive
        {'DOWN', Awaited, process, _, announced} -> take(Keeper#{step := serving, pause := ?FIRST_PAUSE_MS});
        {'DOWN', Awaited, process, _, Reason} -> pause(Reason, Keeper);
        {timeout, Awaited, again} -> take(Keeper);
        _Stray -> rest(Keeper)
    end.

pause(Reason, #{step := Step, pause := Pause, began := Began} = Keeper) ->
    Steady = now_ms() - Began > ?LAST_PAUSE_MS,
    Wait = case Steady of true -> ?FIRST_PAUSE_MS; false -> Pause end,
    complain(Step, Reason, Wait),
    Timer = erlang:start_timer(Wait, self(), again),
    rest(Keeper#{awaited := Timer, pause := min(2 * Wait, ?LAST_PAUSE_MS)}).

%% Once per row of failures: the log is the release's.
complain(Step, Reason, ?FIRST_PAUSE_MS) ->
    logger:warning("beamfleet_link: ~ts failed, trying again: ~0tp", [Step, Reason]);
complain(_Step, _Reason, _LaterPause) ->
    ok.

act(started, Options) -> announce(Options);
act(serving, Options) -> serve(Options).

announce(#{started := Started, boot := Boot}) ->
    Path = native(Started),
    Temporary = <<Path/binary, ".tmp">>,
    ok = file:write_file(Temporary, [integer_to_binary(Boot), $\n], [raw]),
    ok = file:rename(Temporary, Path),
    announced.

%% --- Serving --------------------------------------------------------------------------------------------------------

serve(#{socket := Socket, boot := Boot} = Options) ->
    listen(),
    _ = erlang:system_flag(scheduler_wall_time, true), % for as long as this process lives
    Path = native(Socket),
    _ = file:delete(Path, [raw]),
    {ok, Listener} = gen_tcp:listen(0, [{ifaddr, {local, Path}},
                                        binary,
                                        {active, false},
                                        {backlog, 128},
                                        {send_timeout, ?SEND_TIMEOUT_MS},
                                        {send_timeout_close, true}]),
    ok = file:change_mode(Path, 8#660),
    accept(Listener, #{boot => Boot,
                       probes => maps:get(probes, Options, []),
                       running => #{},
                       outcomes => #{},
                       schedulers => scheduler_times(),
                       from => 0,
                       long => []}).

accept(Listener, Server) ->
    case gen_tcp:accept(Listener) of
        {ok, Client} ->
            Later = answer(Client, Server),
            true = erlang:garbage_collect(),
            accept(Listener, Later);
        {error, Reason} when Reason =:= closed; Reason =:= einval ->
            exit(Reason);
        {error, _Passing} ->
            timer:sleep(?FIRST_PAUSE_MS),
            accept(Listener, Server)
    end.

%% No answer (the connection just closes) means that the release could not be asked.
answer(Client, Server) ->
    {Queues, Later} = queues(probe(Server)),
    Times = scheduler_times(),
    try
        open(), % somebody may have ended its holder
        listen(),
        gen_tcp:send(Client, [json({facts(Later, Times, Queues)}), $\n])
    catch
        _:_ -> unanswered
    after
        gen_tcp:close(Client)
    end,
    Later#{schedulers := Times}.

facts(#{boot := Boot, schedulers := Before, outcomes := Outcomes}, Times, Queues) ->
    Uptime = erlang:monotonic_time() - erlang:system_info(start_time),
    {Collections, _, _} = erlang:statistics(garbage_collection),
    [{v, ?VERSION},
     {boot, Boot},
     {otp, text(erlang:system_info(otp_release), ?NAME_CHARACTERS)},
     {uptime_ms, erlang:convert_time_unit(Uptime, native, millisecond)},
     {memory, {erlang:memory([total, processes, binary, ets, atom, code, system])}},
     {processes, figures(process_count, process_limit)},
     {ports, figures(port_count, port_limit)},
     {atoms, figures(atom_count, atom_limit)},
     {ets, figures(ets_count, ets_limit)},
     {run_queue, erlang:statistics(total_run_queue_lengths)},
     {schedulers, [erlang:system_info(schedulers_online), busy(Before, Times)]},
     {gc, Collections},
     {restarts, ets:lookup_element(?NAME, restarts, 2)},
     {queues, Queues},
     {applications, [[text(Name, ?NAME_CHARACTERS), text(Version, ?NAME_CHARACTERS)]
                     || {Name, _, Version} <- application:which_applications(?CALL_TIMEOUT_MS)]}]
        ++ [{metrics, {Metrics}} || Metrics <- [metrics()], Metrics =/= []]
        ++ ets:lookup(?NAME, said)
        ++ ets:lookup(?NAME, confirm)
        ++ [{probes, {maps:to_list(Outcomes)}} || Outcomes =/= #{}].

figures(Count, Limit) ->
    [erlang:system_info(Count), erlang:system_info(Limit)].

scheduler_times() ->
    lists:sort(erlang:statistics(scheduler_wall_time)).

%% Permille of their time that the schedulers which are online have worked.
busy(Before, Now) ->
    Online = erlang:system_info(schedulers_online),
    Spans = [{A1 - A0, T1 - T0} || {{Id, A0, T0}, {Id, A1, T1}} <- lists:zip(Before, Now), Id =< Online],
    {Active, Total} = lists:foldl(fun({A, T}, {As, Ts}) -> {As + A, Ts + T} end, {0, 0}, Spans),
    max(0, min(1000, 1000 * Active div max(1, Total))).

%% --- The longest message queues, within bounds ----------------------------------------------------------------------

%% Looks at so many processes, beginning where the last look ended, and at those that were long then. Beside us: it
%% may have to wait for a process, and leaves a list of all of them behind.
queues(#{from := From, long := Long} = Server) ->
    {Scan, Monitor} = spawn_monitor(fun() -> exit(try {scanned, scan(From, Long)} catch _:Reason -> Reason end) end),
    receive
        {'DOWN', Monitor, process, Scan, {scanned, {Queues, Next, Pids}}} ->
            {Queues, Server#{from := Next, long := Pids}};
        {'DOWN', Monitor, process, Scan, _Failed} ->
            {[], Server}
    after ?SCAN_GIVEN_UP_MS ->
        true = demonitor(Monitor, [flush]),
        true = exit(Scan, kill),
        {[], Server}
    end.

scan(From, Long) ->
    All = processes(),
    Count = length(All),
    Begin = case From < Count of true -> From; false -> 0 end,
    Looked = look(lists:nthtail(Begin, All), 0, now_ms() + ?SCAN_MS),
    Next = case Begin + Looked < Count of true -> Begin + Looked; false -> 0 end,
    _ = [measure(Pid) || Pid <- Long],
    Longest = lists:sublist(lists:reverse(lists:sort([{Length, Pid} || {Pid, Length} <- get()])), ?QUEUES),
    {[[process_name(Pid), Length] || {Length, Pid} <- Longest], Next, [Pid || {_, Pid} <- Longest]}.

look([Pid | Rest], Looked, Until) when Looked < ?SCAN_PROCESSES ->
    measure(Pid),
    case Looked rem ?SCAN_STEP =:= 0 andalso now_ms() >= Until of
        true -> Looked + 1;
        false -> look(Rest, Looked + 1, Until)
    end;
look(_Rest, Looked, _Until) ->
    Looked.

measure(Pid) ->
    case process_info(Pid, message_queue_len) of
        {_, Length} when Length >= ?LONG_QUEUE -> put(Pid, Length);
        _ShortOrGone -> erase(Pid)
    end.

process_name(Pid) ->
    Name = case process_info(Pid, [registered_name, initial_call, total_heap_size]) of
        [{_, Registered} | _] when is_atom(Registered) -> Registered;
        [_, {_, {proc_lib, init_p, _} = Call}, {_, Words}] when Words < ?MAX_HEAP_TO_NAME -> begun_as(Pid, Call);
        [_, {_, {erlang, apply, _}}, _] -> pid_to_list(Pid);
        [_, {_, Call}, _] -> call(Call);
        undefined -> pid_to_list(Pid)
    end,
    text(Name, ?NAME_CHARACTERS).

begun_as(Pid, Call) ->
    {dictionary, Dictionary} = process_info(Pid, dictionary),
    call(proplists:get_value('$initial_call', Dictionary, Call)).

call({Module, Function, Arity}) ->
    io_lib:format("~ts:~ts/~b", [Module, Function, Arity]).

%% --- Probes: functions of the release, each in a process of its own ------------------------------------------------

%% running: monitor -> {kind, pid, end of its time}. One that outlives that is ended and not called again before it has
%% gone; one that takes longer than an answer may is told in a later one.
probe(#{probes := Probes, running := Running, outcomes := Outcomes} = Server) ->
    {Busy, Known} = collect(Running, Outcomes, now_ms()),
    Kinds = [Kind || {Kind, _, _} <- maps:values(Busy)],
    Begun = maps:from_list([ask(Probe) || {Kind, _, _, _} = Probe <- Probes, not lists:member(Kind, Kinds)]),
    {Still, Told} = collect(maps:merge(Busy, Begun), Known, now_ms() + ?PROBES_MS),
    Server#{running := Still, outcomes := Told}.

ask({Kind, Module, Function, TimeoutMs}) ->
    {Pid, Monitor} = spawn_monitor(fun() -> exit({outcome, outcome(Module, Function)}) end),
    {Monitor, {Kind, Pid, now_ms() + TimeoutMs}}.

outcome(Module, Function) ->
    try Module:Function() of
        Good when Good =:= true; Good =:= ok -> [<<"ok">>, <<>>];
        Bad -> failed(Bad)
    catch
        Class:Reason -> failed({Class, Reason})
    end.

failed(Why) -> [<<"failed">>, text(Why, ?TEXT_CHARACTERS)].

collect(Running, Outcomes, Last) ->
    Untils = [Until || {_, _, Until} <- maps:values(Running), is_integer(Until)],
    receive
        {'DOWN', Monitor, process, _, Reason} when is_map_key(Monitor, Running) ->
            {{Kind, _, Until}, Others} = maps:take(Monitor, Running),
            collect(Others, conclude(Kind, Until, Reason, Outcomes), Last)
    after patience(Untils, Last) ->
        {Still, Told} = maps:fold(fun expire/3, {Running, Outcomes}, Running),
        case Untils =/= [] andalso now_ms() < Last of
            true -> collect(Still, Told, Last);
            false -> {Still, Told}
        end
    end.

patience([], _Last) -> 0;
patience(Untils, Last) -> max(0, lists:min([Last | Untils]) - now_ms()).

conclude(_Kind, over, _Reason, Outcomes) -> Outcomes;
conclude(Kind, _Until, {outcome, Outcome}, Outcomes) -> Outcomes#{Kind => Outcome};
conclude(Kind, _Until, Reason, Outcomes) -> Outcomes#{Kind => failed(Reason)}.

expire(Monitor, {Kind, Pid, Until}, {Running, Outcomes}) when is_integer(Until) ->
    case Until =< now_ms() of
        true ->
            true = exit(Pid, kill),
            {Running#{Monitor := {Kind, Pid, over}}, Outcomes#{Kind => failed(<<"no answer in time">>)}};
        false -> {Running, Outcomes}
    end;
expire(_Monitor, _Over, Both) ->
    Both.

%% --- JSON: numbers, true, text (binaries), lists, objects (property lists in a tuple) --------------------------------

json(Number) when is_integer(Number) -> integer_to_binary(Number);
json(Number) when is_float(Number) -> float_to_binary(Number, [short]);
json(true) -> <<"true">>;
json(Text) when is_binary(Text) -> [$", << <<(escape(Byte))/binary>> || <<Byte>> <= Text >>, $"];
json({Pairs}) -> [${, lists:join($,, [[json(key(Key)), $:, json(Value)] || {Key, Value} <- Pairs]), $}];
json(Values) -> [$[, lists:join($,, [json(Value) || Value <- Values]), $]].

key(Key) when is_atom(Key) -> atom_to_binary(Key);
key(Key) -> Key.

escape($") -> <<"\\\"">>;
escape($\\) -> <<"\\\\">>;
escape(Byte) -> <<Byte>>.

%% At most so many characters on one line: of a text itself, of anything else as Erlang prints it.
text(Atom, Most) when is_atom(Atom) ->
    text(atom_to_binary(Atom), Most);
text(Term, Most) ->
    Characters = case catch unicode:characters_to_list(string:slice(Term, 0, Most)) of
        Text when is_list(Text) -> Text;
        _NotText -> lists:flatten(io_lib:format("~0tP", [Term, 12], [{chars_limit, Most}]))
    end,
    unicode:characters_to_binary([printable(Character) || Character <- lists:sublist(Characters, Most)]).

printable(Control) when Control < 16#20; Control >= 16#7F, Control < 16#A0 -> $\s;
printable(Character) -> Character.

%% The bytes of a path as the operating system knows it, whether it came as text or as bytes.
native(Path) when is_binary(Path) ->
    Path;
native(Path) ->
    unicode:characters_to_binary(Path, unicode, file:native_name_encoding()).

now_ms() ->
    erlang:monotonic_time(millisecond).

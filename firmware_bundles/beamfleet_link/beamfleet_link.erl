%%% The window through which the device sees its running release.
%%%
%%% It belongs to the agent's package, not to the release: the launcher loads it by a caught `-eval' once the boot
%%% script has run, so that its first act, the `started' file, says "this release booted". From then on it answers
%%% each connection on a Unix socket with one line of JSON and closes it.
%%%
%%% start/1 -> keeper (unlinked, unsupervised) -> announce once -> serve, restarted by the keeper when it dies
%%%
%%% It never raises into the release, never links to it, never reads what a client says, never touches an
%%% application's state, and stands on kernel and stdlib alone (OTP 25 and later).
-module(beamfleet_link).

-include_lib("kernel/include/file.hrl").

-export([start/1]).

-define(VERSION, 1).
-define(NAME, ?MODULE).
-define(FIRST_PAUSE_MS, 500).
-define(LAST_PAUSE_MS, 30000).
-define(CALL_TIMEOUT_MS, 2000).
-define(SEND_TIMEOUT_MS, 2000).

-type path() :: file:name_all().
-type options() :: #{socket := path(),
                     started := path(),
                     boot := non_neg_integer(),
                     doorbell => path()}.

%% @doc Starts the link and returns at once; a second call in the same VM changes nothing.
%%
%% `started' is created (boot number and newline, by rename) before the socket exists; `doorbell', if given, is the
%% launcher's FIFO and gets one newline after that. A socket path is at most 107 bytes long: where the absolute one
%% is longer, give it relative to the VM's working directory.
-spec start(options()) -> ok.
start(#{socket := _, started := _, boot := Boot} = Options) when is_integer(Boot) ->
    _ = spawn(fun() -> keep(Options) end),
    ok.

%% --- The keeper: outlives whatever happens to the server ------------------------------------------------------------

keep(Options) ->
    case catch register(?NAME, self()) of
        true -> keep(Options, started, ?FIRST_PAUSE_MS);
        _AlreadyRunning -> ok
    end.

keep(Options, Step, Pause) ->
    Began = erlang:monotonic_time(millisecond),
    case run(Options, Step) of
        announced ->
            ring(Options),
            keep(Options, serving, ?FIRST_PAUSE_MS);
        Reason ->
            Steady = erlang:monotonic_time(millisecond) - Began > ?LAST_PAUSE_MS,
            Wait = case Steady of true -> ?FIRST_PAUSE_MS; false -> Pause end,
            complain(Step, Reason, Wait),
            rest(Wait),
            keep(Options, Step, min(2 * Wait, ?LAST_PAUSE_MS))
    end.

run(Options, Step) ->
    {Pid, Monitor} = spawn_monitor(fun() -> exit(try act(Step, Options) catch _:Reason -> Reason end) end),
    await(Pid, Monitor).

%% Once per row of failures: the log is the release's.
complain(Step, Reason, ?FIRST_PAUSE_MS) ->
    logger:warning("beamfleet_link: ~ts failed, trying again: ~0tp", [Step, Reason]);
complain(_Step, _Reason, _LaterPause) ->
    ok.

await(Pid, Monitor) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> Reason;
        _Stray -> await(Pid, Monitor)
    end.

rest(Milliseconds) ->
    Timer = erlang:start_timer(Milliseconds, self(), rested),
    rest_until(Timer).

rest_until(Timer) ->
    receive
        {timeout, Timer, rested} -> ok;
        _Stray -> rest_until(Timer)
    end.

act(started, Options) -> announce(Options);
act(serving, Options) -> serve(Options).

%% --- Started --------------------------------------------------------------------------------------------------------

announce(#{started := Started, boot := Boot}) ->
    Path = native(Started),
    Temporary = <<Path/binary, ".tmp">>,
    ok = write(Temporary, [write], [integer_to_binary(Boot), $\n]),
    ok = file:rename(Temporary, Path),
    announced.

%% A FIFO opened for reading and writing never blocks, whoever holds the other end; where the release may only write
%% to it, the open waits for the launcher, which holds it open as long as it lives. That wait is in a process of its
%% own on a dirty I/O thread: it delays nobody.
ring(#{doorbell := Doorbell}) ->
    _ = spawn(fun() -> catch ring_bell(native(Doorbell)) end),
    ok;
ring(_NoDoorbell) ->
    ok.

ring_bell(Path) ->
    {ok, #file_info{type = other}} = file:read_file_info(Path, [raw]),
    case catch write(Path, [read, write], "\n") of
        ok -> ok;
        _NotReadable -> write(Path, [append], "\n")
    end.

write(Path, Modes, Text) ->
    {ok, File} = file:open(Path, [raw, binary | Modes]),
    try
        file:write(File, Text)
    after
        file:close(File)
    end.

%% --- Serving --------------------------------------------------------------------------------------------------------

serve(#{socket := Socket, boot := Boot}) ->
    Path = native(Socket),
    _ = file:delete(Path, [raw]),
    {ok, Listener} = gen_tcp:listen(0, [{ifaddr, {local, Path}},
                                        binary,
                                        {active, false},
                                        {backlog, 128},
                                        {send_timeout, ?SEND_TIMEOUT_MS},
                                        {send_timeout_close, true}]),
    ok = file:change_mode(Path, 8#660),
    accept(Listener, Boot).

accept(Listener, Boot) ->
    case gen_tcp:accept(Listener) of
        {ok, Client} ->
            _ = answer(Client, Boot),
            true = erlang:garbage_collect(),
            accept(Listener, Boot);
        {error, Reason} when Reason =:= closed; Reason =:= einval ->
            exit(Reason);
        {error, _Passing} ->
            rest(?FIRST_PAUSE_MS),
            accept(Listener, Boot)
    end.

%% No answer (the connection just closes) means that the release could not be asked.
answer(Client, Boot) ->
    try
        gen_tcp:send(Client, [json(facts(Boot)), $\n])
    catch
        _:_ -> unanswered
    after
        gen_tcp:close(Client)
    end.

facts(Boot) ->
    {Uptime, _} = erlang:statistics(wall_clock),
    [{v, ?VERSION},
     {boot, Boot},
     {otp, {text, erlang:system_info(otp_release)}},
     {uptime_ms, Uptime},
     {applications, {list, [[{name, {text, Name}}, {version, {text, Version}}]
                            || {Name, _, Version} <- application:which_applications(?CALL_TIMEOUT_MS)]}},
     {memory, erlang:memory([total, processes, binary, ets, atom, code, system])},
     {processes, erlang:system_info(process_count)},
     {process_limit, erlang:system_info(process_limit)},
     {ports, erlang:system_info(port_count)},
     {atoms, erlang:system_info(atom_count)},
     {atom_limit, erlang:system_info(atom_limit)},
     {run_queue, erlang:statistics(total_run_queue_lengths)}].

%% --- JSON: integers, text, lists, objects (as property lists) ---------------------------------------------------------

json(Number) when is_integer(Number) ->
    integer_to_binary(Number);
json({text, Text}) ->
    [$", [escape(Character) || Character <- characters(Text)], $"];
json({list, Values}) ->
    [$[, lists:join($,, [json(Value) || Value <- Values]), $]];
json(Pairs) when is_list(Pairs) ->
    [${, lists:join($,, [[$", atom_to_binary(Key), $", $:, json(Value)] || {Key, Value} <- Pairs]), $}].

characters(Atom) when is_atom(Atom) ->
    atom_to_list(Atom);
characters(Text) ->
    case catch unicode:characters_to_list(Text) of
        Characters when is_list(Characters) -> Characters;
        _NotText -> lists:flatten(io_lib:format("~0tp", [Text]))
    end.

escape($") -> <<"\\\"">>;
escape($\\) -> <<"\\\\">>;
escape(Control) when Control < 16#20 -> io_lib:format("\\u~4.16.0b", [Control]);
escape(Character) -> <<Character/utf8>>.

%% The bytes of a path as the operating system knows it, whether it came as text or as bytes.
native(Path) when is_binary(Path) ->
    Path;
native(Path) ->
    unicode:characters_to_binary(Path, unicode, file:native_name_encoding()).

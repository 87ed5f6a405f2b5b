%%% Makes sure that one VM only works in the data directory, and writes down when it did.
%%%
%%% Each VM first creates its own file `lock.PID.STARTED', then looks for others: of two VMs that start at the same
%%% moment at least one sees the other. A file whose process is gone (a zombie is, and one whose number went to a later
%%% process) is stale and removed. `intervals.log' gets one line per event, by the boot clock (milliseconds since boot):
%%%
%%%   start MS PID VERSION | stop MS PID VERSION | overlap MS PID VERSION
-module(sensor_gateway_lock).
-behaviour(gen_server).

-export([start_link/2, started_ms/0, boot_clock_ms/0]).
-export([init/1, handle_call/3, handle_cast/2, terminate/2]).

start_link(Data, Version) ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, {Data, Version}, []).

%% @doc When this VM took the lock, by the boot clock.
started_ms() ->
    persistent_term:get(?MODULE, 0).

init({Data, Version}) ->
    process_flag(trap_exit, true),
    ok = filelib:ensure_path(Data),
    File = own_file(Data),
    _ = file:delete(File),
    ok = file:write_file(File, [], [raw, exclusive]),
    case lists:filter(fun is_held/1, others(Data, File)) of
        [] ->
            persistent_term:put(?MODULE, boot_clock_ms()),
            note(Data, "start", Version),
            {ok, #{data => Data, file => File, version => Version}};
        Held ->
            _ = file:delete(File),
            note(Data, "overlap", Version),
            {stop, {another_vm_is_running, Held}}
    end.

handle_call(_Request, _From, State) ->
    {reply, ignored, State}.

handle_cast(_Message, State) ->
    {noreply, State}.

terminate(_Reason, #{data := Data, file := File, version := Version}) ->
    note(Data, "stop", Version),
    file:delete(File).

own_file(Data) ->
    Pid = os:getpid(),
    {ok, Started} = process_started(Pid),
    filename:join(Data, lists:concat(["lock.", Pid, ".", Started])).

others(Data, Own) ->
    filelib:wildcard(filename:join(Data, "lock.*.*")) -- [Own].

is_held(File) ->
    ["lock", Pid, Started] = string:lexemes(filename:basename(File), "."),
    case process_started(Pid) of
        {ok, Started} ->
            true;
        _Gone ->
            _ = file:delete(File),
            false
    end.

%% Field 22 of /proc/PID/stat, in clock ticks since boot; field 2 is a name in brackets that may contain anything,
%% field 3 is Z or X for a process that only waits to be reaped.
process_started(Pid) ->
    case file:read_file(filename:join(["/proc", Pid, "stat"])) of
        {ok, Stat} ->
            [State | _] = Fields = string:lexemes(lists:last(string:split(Stat, ")", trailing)), " \n"),
            case lists:member(State, [<<"Z">>, <<"X">>]) of
                true -> {error, reaped};
                false -> {ok, binary_to_list(lists:nth(20, Fields))}
            end;
        {error, _} = Gone ->
            Gone
    end.

note(Data, Event, Version) ->
    Line = io_lib:format("~s ~b ~s ~s~n", [Event, boot_clock_ms(), os:getpid(), Version]),
    ok = file:write_file(filename:join(Data, "intervals.log"), Line, [raw, append]).

%% @doc Milliseconds since boot, in steps of ten.
boot_clock_ms() ->
    {ok, Text} = file:read_file("/proc/uptime"),
    [Seconds | _] = string:lexemes(Text, " "),
    round(binary_to_float(Seconds) * 1000).

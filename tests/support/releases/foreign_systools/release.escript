#!/usr/bin/env escript
%%! -boot no_dot_erlang
%% Makes foreign_systools-0.3.0.tar.gz in the working directory with nothing but sasl's systools.
-mode(compile).

main([]) ->
    ok = filelib:ensure_path("ebin"),
    [{ok, _} = compile:file(File, [debug_info, report, {outdir, "ebin"}]) || File <- filelib:wildcard("src/*.erl")],
    {ok, _} = file:copy("src/foreign_systools.app", "ebin/foreign_systools.app"),
    true = code:add_patha("ebin"),
    Applications = [{App, version(App)} || App <- [kernel, stdlib, sasl, foreign_systools]],
    Release = {release, {"foreign_systools", "0.3.0"}, {erts, erlang:system_info(version)}, Applications},
    ok = file:write_file("foreign_systools.rel", io_lib:format("~p.~n", [Release])),
    ok = systools:make_script("foreign_systools"),
    ok = systools:make_tar("foreign_systools", [{erts, code:root_dir()}]),
    ok = file:rename("foreign_systools.tar.gz", "foreign_systools-0.3.0.tar.gz").

version(App) ->
    case application:load(App) of
        ok -> ok;
        {error, {already_loaded, App}} -> ok
    end,
    {ok, Version} = application:get_key(App, vsn),
    Version.

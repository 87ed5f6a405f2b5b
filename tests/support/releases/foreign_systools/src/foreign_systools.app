{application, foreign_systools,
 [{description, "A release made by systools alone"},
  {vsn, "0.3.0"},
  {modules, [foreign_systools, foreign_systools_app]},
  {registered, [foreign_systools_sup, foreign_systools]},
  {mod, {foreign_systools_app, []}},
  {applications, [kernel, stdlib]}]}.

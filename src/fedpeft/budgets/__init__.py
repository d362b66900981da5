"""The settings that a client's memory, uplink and time allow: predicted by models, measured in dry steps.

In reading order:

* models, pure arithmetic: `shape` counts sizes, `memory` and `step_time` predict a configuration's peak and seconds,
  `search_space` lists the configurations, `choose` takes the largest that a budget allows;
* measuring: `measure` starts a dry step in a process of its own, `dry_step` runs there, `probe` takes several and fits
  the models to them, `probe_file` keeps the results;
* use: `fit` chooses and verifies for one budget, `describe` puts the result into words, `levels` assigns resources to
  clients, `resolve_budgets` replaces the budgets of an experiment.
"""

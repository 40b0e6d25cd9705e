"""The plan of this process, and the role that the process has: solo, controller or worker.

`PlanSession` puts the parts of the plugin together, and `lookup` finds it in `config.stash`. The
roles implement pytest's hooks. This room uses all other rooms of the plugin, and none uses it.
"""

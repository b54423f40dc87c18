"""The protocol of the delivery as an executable model: publishers, checkpoints, rollbacks and replicas on one store and log.

A world is two partitions, two tables, a dense slice, one or two publishers with the zombies that they leave behind, and two
replicas that lag, crash and start anew. An action is one atomic step with a guard; a walk is a random sequence of actions.
Safety is checked at every step; at the end everything is brought to rest and compared with a newcomer and with the trainers'
own rows. `RULES` names what the protocol relies on; a world made `without` one shows what goes wrong.

It knows nothing of the product's code, and the product nothing of it. Not modelled: leases and presence, retention,
several refs, serving one version exactly.
"""

"""The federation over Flower: the only room that knows `flwr`. What a site's node loads of it imports no torch.

frames        length-prefixed bytes over a local socket
protocol      a request or an answer as bytes: a JSON header and parts
content       such bytes inside Flower's records
client_app    Flower's half at a site: hands each message to the site's worker
server_app    Flower's half at the server: lends the Grid to the process of the run
simulate      the process that a simulation runs in
relay         the run's half of that: requests to nodes, answers as they come
responder     what answers requests where the clients are, with a local engine
simulation    the engine `flower-sim`: clients in Ray's processes, on this machine or several
deployment    the engine `flower`: sites that a SuperLink reaches
"""

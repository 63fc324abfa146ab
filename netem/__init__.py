"""The laboratory's link: declared in YAML, built from real `tc netem`, measured before it is believed.

    spec      what a link is (pydantic; impossible values are errors)
    profiles  named links with their source
    plan      spec -> commands, as pure data (qdisc: those of tc; impairments: bursts and slots, a part of spec)
    apply     runs commands, reads back what the kernel says
    backend   which way this machine can build a link, found by trying
    journal   what was made, on disk before it is made, so that it can be undone
    lab       open_lab(): a device, a router and an edge; teardown guaranteed
    keeper    a lab that outlives the command that made it
    rootless  the same without root, in namespaces of one's own
    uml       the user-mode Linux router, for kernels without sch_netem (initramfs, guest_exec, batch: its parts)
    check     measures RTT, loss and rate of a lab against its declaration (probe, binomial: its parts)
    inside    looks into a host's namespace: counters, TCP settings in force
    doctor    what this machine can do, and the command that mends what it cannot

Knows nothing of nodes, messages or models, and imports nothing of this project outside this folder.
"""

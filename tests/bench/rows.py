"""Every family of rows, one line each: the function that measures it, and how the names of its rows begin."""

from __future__ import annotations

from tests.bench.harness import Family

FAMILIES = (
    Family("command_line:help_page", ("cli.help",)),
    Family("command_line:status", ("cli.status",)),
    Family("create_start:measure", ("provisioning.api_calls_create_start", "provisioning.own_waiting_create_start")),
    Family("nodes:one", ("provisioning.nodes_1.",)),
    Family("nodes:ten", ("provisioning.nodes_10.",)),
    Family("nodes:hundred", ("provisioning.nodes_100.",)),
    Family("collisions:measure", ("provisioning.parallel_creates_32_from_4_processes",)),
    Family("plan:measure", ("provisioning.plan_1000_nodes",)),
    Family("false_stops:measure", ("wake.false_stops", "wake.late_stop")),
    Family("lab_capacity:measure", ("provisioning.lab_10000_vms",)),
    Family("control_loop:measure", ("wake.control_loop_1000_nodes", "wake.control_loop_10000_nodes")),
    Family("gpu_exclusivity:measure", ("arbiter.gpu_exclusivity", "arbiter.longest_wait_beyond_bound")),
    Family("metrics_page:measure", ("metrics.thousand_nodes",)),
    Family("gateway:measure", ("gateway.",)),
    Family("soak:measure", ("gateway.service_memory",)),
    Family("route_call:measure", ("wake.route_call",)),
    Family("page:measure", ("page.",)),
    Family("held:measure", ("wake.held_clients", "failover.")),
    Family("around_shutdown:measure", ("wake.around_shutdown",)),
)

"""The real services on simulated time: processes that die anywhere, a Proxmox that fails, one seed for all of it."""

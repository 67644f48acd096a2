"""The tape machine: tables of records behind one address, memory, emit and the reverse sweep, all compiled."""

"""The science of phaseline: arrays in, arrays out; nothing here knows of EPICS or of where it runs."""

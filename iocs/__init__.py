"""All EPICS input and output of phaseline: serving PVs, NTNDArray streams, one module for each IOC, the commands."""

"""Fakes, faults and contract suites: public, for back ends written elsewhere too."""

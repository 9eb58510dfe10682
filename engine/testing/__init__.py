"""For the tests of turnlog and of what is built on it: contract suite, scripted server, judge, cancelling."""

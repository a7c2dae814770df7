"""What training minimises; functions of raw outputs, anchors and targets, never of a model."""

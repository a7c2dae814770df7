"""Classification networks without their classifiers, as feature extractors with taps."""

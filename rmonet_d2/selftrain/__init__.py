"""From a discovery to a detector: its results as labels, a stock Detectron2 model as student."""

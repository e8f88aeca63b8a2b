"""Small helpers that know nothing of models. Nothing here imports Detectron2."""

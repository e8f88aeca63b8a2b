"""The paper's maths as pure tensor functions: no cfg, no registry, no event storage."""

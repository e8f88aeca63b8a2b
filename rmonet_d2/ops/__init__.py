"""The paper's math as pure tensor functions: no cfg, no registry, no event storage."""

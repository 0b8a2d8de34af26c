"""Result stores: one file each. `store` is the port they fill; `base` is what applications subclass."""

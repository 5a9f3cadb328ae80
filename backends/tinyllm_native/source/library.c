/* What every library says of itself. */

#ifndef TINYLLM_SOURCES
#error "TINYLLM_SOURCES: expected the hash of the sources; compile with: tinyllm native build"
#endif

/* The hash of the sources and flags that this library was made of (builder/levels.py). */
__attribute__((visibility("default"))) const char *tinyllm_sources(void) {
    return TINYLLM_SOURCES;
}

"""Root poses of clips whose cameras nobody knows: hypotheses, render-and-compare, acceptance, registration."""

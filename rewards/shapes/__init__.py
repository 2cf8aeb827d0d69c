"""An embedded procedural world whose truth is known: scenes, captions, gold measures, proxies."""

"""Is the embedded world's truth true, and are its proxies useful but beatable?"""

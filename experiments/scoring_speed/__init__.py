"""Does a scorer more on a shared encoder cost anything?"""

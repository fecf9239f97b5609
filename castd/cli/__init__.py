"""
Reads the command line of C{castd}, and shows what each command answers.
"""

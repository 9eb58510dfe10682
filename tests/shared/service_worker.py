"""A service under uvicorn's own command; `forking` starts it where what services import has been imported already."""

import os
import sys

import fastapi
import openai
import uvicorn

import turnlog.adapters.responses

IMPORTED = (fastapi, openai, turnlog.adapters.responses)


def work(folder, environment, *arguments):
    os.dup2(1, 2)
    os.chdir(folder)
    os.environ.update(environment)
    sys.path.insert(0, folder)
    uvicorn.main(arguments, standalone_mode=False)

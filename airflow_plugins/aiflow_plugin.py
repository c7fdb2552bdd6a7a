"""For those who copy plug-ins into a plugins folder; `pip install aiflow-ext` needs no copy."""

from aiflow_ext.provider.plugin import AiflowPlugin as AiflowPlugin

"""The page on performance, a section for each benchmark."""

from docs.pages.growth import growth_section
from docs.pages.layer import derivatives_section, layer_section
from docs.pages.markdown import HEADER
from docs.pages.models import export_section, folding_section
from docs.pages.population import population_section
from docs.pages.quantization import quantization_section
from docs.pages.serving import capacity_section, overhead_section, serving_section
from docs.pages.training import training_section


def performance_page():
    """Return the page on performance."""
    sections = [
        layer_section(),
        derivatives_section(),
        population_section(),
        folding_section(),
        export_section(),
        quantization_section(),
        overhead_section(),
        serving_section(),
        training_section(),
        capacity_section(),
        growth_section(),
    ]
    return f"""\
{HEADER}
# Performance

Everything here was measured on two shared CPU cores, without a GPU. Each section names the
command that repeats it. Times on your machine will differ; their ratios will differ less.

{chr(10).join(sections)}"""

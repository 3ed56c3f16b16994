# Task arithmetic with pre-trained models: the table of contents.
from snakemake.utils import min_version

min_version("9.14")


# One experiment at a time: a --configfile replaces the default instead of merging into it.
if "datasets" not in config:

    configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/common_models.smk"
include: "workflow/rules/common_edits.smk"
include: "workflow/rules/common_merging.smk"
include: "workflow/rules/common_analogies.smk"
include: "workflow/rules/common_analyses.smk"
include: "workflow/rules/common_report.smk"


pathvars:
    results=f"results/{config['experiment']}",
    logs=f"results/{config['experiment']}/logs",


report: "workflow/report/workflow.rst"


include: "workflow/rules/datasets.smk"
include: "workflow/rules/encoders.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/edits.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/merging.smk"
include: "workflow/rules/analogies.smk"
include: "workflow/rules/analyses.smk"
include: "workflow/rules/initialization.smk"
include: "workflow/rules/report.smk"


rule fetch:
    input:
        get_downloads(),


rule all_tables:
    default_target: True
    input:
        get_tables(),


rule all_figures:
    input:
        get_figures(),
        get_merging_figures(),
        get_analysis_figures(),


rule all_analyses:
    input:
        get_merging_tables(),
        get_analysis_tables(),


# A target for each analysis: all_merging, all_kernel, …
for analysis, results in get_analysis_results().items():

    rule:
        name:
            f"all_{analysis}"
        input:
            results,


rule all:
    input:
        rules.all_tables.input,
        rules.all_analyses.input,
        rules.all_figures.input,
        rules.summary.output,
        get_pages(),


onstart:
    show_costs()


onsuccess:
    show_tables()

rule figure:
    input:
        unpack(get_figure_inputs),
    output:
        png=report(
            "<results>/figures/{figure}.png",
            caption="../report/figure.rst",
            **chapter_of("figure", "figure"),
        ),
        pdf="<results>/figures/{figure}.pdf",
    log:
        "<logs>/figures/{figure}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=get_figure_settings(),
        code=code_digest("figures"),
    message:
        "figure {wildcards.figure}"
    shell:
        "task-arithmetic figure {wildcards.figure} --settings {params.settings:q}"
        " --curves '{input.curves}' --selections '{input.selections}' --tables '{input.tables}'"
        " --png {output.png} --pdf {output.pdf} --log {log}"

rule table_page:
    input:
        csv="<results>/tables/{table}.csv",
        markdown=get_rendered_table,
    output:
        page=report(
            "<results>/pages/{table}.html",
            caption="../report/table.rst",
            **chapter_of("table", "table"),
        ),
    log:
        "<logs>/pages/{table}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=get_page_settings,
        code=code_digest("pages"),
    message:
        "page of table {wildcards.table}"
    shell:
        "task-arithmetic table-page --settings {params.settings:q} --csv {input.csv}"
        " --markdown '{input.markdown}' --output {output.page} --log {log}"


rule run_page:
    input:
        splits=expand(
            "<results>/datasets/{dataset}/{split}.parquet",
            dataset=get_shown_datasets(),
            split=["train", "validation", "test"],
        ),
    output:
        page=report(
            "<results>/pages/run.html",
            caption="../report/run.rst",
            **chapter_of("run", "table"),
        ),
    log:
        "<logs>/pages/run.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=get_run_settings,
        code=code_digest("pages"),
    message:
        "page of what was run"
    shell:
        "task-arithmetic run-page --settings {params.settings:q} --splits '{input.splits}'"
        " --output {output.page} --log {log}"


rule provenance_page:
    input:
        results=get_all_results(),
    output:
        page=report(
            "<results>/pages/provenance.html",
            caption="../report/provenance.rst",
            **chapter_of("provenance", "table"),
        ),
    log:
        "<logs>/pages/provenance.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=code_digest("pages", "provenance"),
    message:
        "page of the provenance"
    shell:
        "task-arithmetic provenance-page --results '{input.results}' --output {output.page}"
        " --log {log}"


rule gallery:
    input:
        splits=expand(
            "<results>/datasets/{dataset}/test.parquet", dataset=get_shown_datasets()
        ),
    output:
        png=report(
            "<results>/figures/datasets.png",
            caption="../report/gallery.rst",
            **chapter_of("datasets", "figure"),
        ),
        pdf="<results>/figures/datasets.pdf",
    log:
        "<logs>/figures/datasets.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=get_gallery_settings(),
        code=code_digest("gallery"),
    message:
        "pictures of the datasets"
    shell:
        "task-arithmetic gallery --settings {params.settings:q} --splits '{input.splits}'"
        " --png {output.png} --pdf {output.pdf} --log {log}"

"""Flattens a program: an entry and what it reaches of its packages become one file, a script or a notebook.

The output is plain code with the comments and the layout of the source. It is made by text edits on that source; no
syntax tree is ever printed. A module comes in one of two styles:

    flat       its code stands in the one namespace of the program, without the imports of the packages and without what
               nothing needs; only names that collide are changed
    modules    it keeps a namespace, a name and a file of its own: in a script as a block `if __name__ == "pkg.module":`
               that a helper writes to a folder, in a notebook as a `%%writefile` cell

A module is flat if it can be shown that the program behaves as before: no code looks at where a class or function comes
from, at the module as an object, at its file or its namespace. Every other module is in modules style, which is what
Python itself does. What neither style can do is a `BuildError` that names file, line and remedy.

One module a phase; each imports only from those above it:

    errors, settings     `BuildError`; changes of settings, as a command line gives them
    source               text and syntax tree of one file, positions as offsets into the text
    scopes, names        which variable each name of a module means, by the compiler's own `symtable`
    shell                what IPython would change in a cell
    facts                what the source of one module says about modules
    search_path, library where the user's modules lie; where those of the packages do, and which of them are flat
    values, pickles      which classes a value may hold; what is pickled and unpickled
    observers            which code would notice the flat form
    given_values         what calls, defaults and options give to parameters and attributes
    path_values          the paths that expressions mean
    named_files          the files that the program opens: shipped, or warned of
    reach, finding       which modules the entry may load, what they read besides
    purity               which statements can be moved or left out
    loading              the statements of all flat modules in the order in which Python would run them
    meanings, merging    what an imported name stands for; helpers that are the same in several modules
    refusals, program    what a flat program cannot do; what each name refers to, which statements the entry reaches
    naming               one name for each variable of the one namespace
    lines, emission      the edited text of each flat module, with the source line of every line
    unused               which definitions of a module in modules style nothing mentions
    modules_style        the text of such a module, and the helper that it needs
    cells, documents     the cells of the output, notebook or percent script
    checks               the output compiles, has no unknown name, no import of flat packages, no secret
    trace                from the lines of a log back to the source
    kaggle, kernel_head  what Kaggle asks of a kernel; the head of a kernel; kernel-metadata.json
    notebook_entry       a notebook as the entry
    parameters           the settings cell of a kernel
    analysis             all phases in their order; a retry with more modules in modules style if one of them refuses
    build, command       from the files on disk to the files on disk; the command line

Standard library only; Python 3.11 to 3.13; the same source gives the same bytes.
"""

[inputs: ["*.exs", "{config,lib}/**/*.{ex,exs}"], line_length: 120]

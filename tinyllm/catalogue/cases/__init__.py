"""Further cases of the op specs, made when somebody asks for them (`OpSpec.all_cases`)."""
